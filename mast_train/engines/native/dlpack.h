/* Tensors of other libraries as DLPack describes them: what is read here of its binary interface, version 1.3. */
#ifndef MAST_TRAIN_DLPACK_H
#define MAST_TRAIN_DLPACK_H
#include <stddef.h>
#include <stdint.h>

enum { DLPACK_CPU = 1 };
enum { DLPACK_INT = 0, DLPACK_UINT = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4, DLPACK_COMPLEX = 5, DLPACK_BOOL = 6 };

typedef struct {
    void *data;
    struct {
        int32_t type, number;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides; /* strides in elements; NULL: adjacent */
    uint64_t byte_offset;
} dlpack_tensor;

/* In a capsule named "dltensor". */
typedef struct dlpack_managed {
    dlpack_tensor tensor;
    void *manager;
    void (*deleter)(struct dlpack_managed *self);
} dlpack_managed;

/* In a capsule named "dlpack_exchange_api" that a tensor type has as __dlpack_c_exchange_api__. */
typedef struct {
    struct {
        uint32_t major, minor;
    } version;
    const void *previous;
    void (*allocate)(void), (*managed_from)(void), (*managed_to)(void); /* not called: without their arguments */
    int (*borrow)(void *object, dlpack_tensor *out); /* lives as long as the object; -1: an exception is set */
} dlpack_exchange;
#endif
