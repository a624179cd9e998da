/* The agents of a team that run one network. Part of _team.h. */

/* Agents of one network: in lanes (yh, next: of each tile, as in mast_tile), or one state each. */
typedef struct {
    Network *network;
    uint32_t size;
    int32_t *member;
    float *yh, *next, *work;
    mast_state *states;
    mast_hit *hit;  /* [tiles][obs] */
    uint32_t *hits; /* [tiles] */
} Group;

typedef struct {
    PyObject_HEAD
    PyObject *contract, *backend;
    Py_ssize_t n, n_groups, width;
    uint32_t obs, actions;
    Group *groups;
    float *q, *next_q;
    uint64_t *outside, total_outside; /* [n][obs] */
    int32_t *id, *last_action, *next_action;
    size_t weights;
    int busy;
    Bound bound;
} Team;

static uint32_t group_tiles(const Group *g) { return (g->size + MAST_LANES - 1u) / MAST_LANES; }
static size_t y_floats(const Group *g) { return (size_t)MAST_PAD(g->network->net.fc1_size) * MAST_LANES; }
static size_t tile_floats(const Group *g)
{
    return y_floats(g) + (size_t)MAST_PAD(g->network->net.hidden) * MAST_LANES;
}
/* The state of the group's agent j: every MAST_LANES floats. */
static float *lane_of(const Group *g, uint32_t j)
{
    return g->yh + j / MAST_LANES * tile_floats(g) + y_floats(g) + j % MAST_LANES;
}

/* Count what the decision of all agents, which was taken, saw outside its range. */
static void group_count(Team *team, const Group *g)
{
    const mast_network *n = &g->network->net;
    for (uint32_t j = 0; g->states && j < g->size; j++) {
        uint64_t *const counts = team->outside + (size_t)g->member[j] * n->obs;
        if (g->states[j].outside)
            team->total_outside += g->network->kernels->count_outside(g->states[j].x, n->low, n->high, n->obs, counts);
    }
    for (uint32_t t = 0; g->hits && t < group_tiles(g); t++) {
        const int32_t *const member = g->member + t * MAST_LANES;
        const mast_hit *const hit = g->hit + (size_t)t * n->obs;
        for (uint32_t i = 0; i < g->hits[t]; i++) {
            for (uint32_t lanes = hit[i].lanes; lanes; lanes &= lanes - 1u, team->total_outside++)
                team->outside[(size_t)member[__builtin_ctz(lanes)] * n->obs + hit[i].input]++;
        }
    }
}

/* The network and the members (int32) of a native.Members: both there, each member within n and without a group yet. */
static int take_members(Team *team, Group *g, PyObject *given)
{
    Py_buffer view;
    PyObject *network = PyObject_GetAttrString(given, "network");
    if (network && !PyObject_TypeCheck(network, network_type)) {
        PyErr_Format(PyExc_TypeError, "a group's network is %R, expected a packed one", network);
        Py_CLEAR(network);
    }
    g->network = (Network *)network;
    PyObject *members = network ? PyObject_GetAttrString(given, "members") : NULL;
    const int fault = !members || one_axis(members, 'i', "members", &view) < 0;
    Py_XDECREF(members);
    if (fault)
        return -1;
    const Py_ssize_t size = view.len / 4;
    int fits = size > 0 && size <= team->n && (g->member = allocate((size_t)view.len)) != NULL;
    if (fits)
        memcpy(g->member, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    for (Py_ssize_t i = 0; fits && i < size; i++) {
        const int32_t who = g->member[i];
        fits = who >= 0 && who < team->n && team->id[who] >= 0 && (uint32_t)team->id[who] < g->network->net.agents
               && !team->next_action[who]++;
    }
    if (!fits && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a member or an agent id out of range, or a member twice");
    g->size = (uint32_t)size;
    return fits ? 0 : -1;
}

/* A native.Members as a group with its states. team->next_action counts the groups of each agent. */
static int take_group(Team *team, Group *g, PyObject *given)
{
    if (take_members(team, g, given) < 0)
        return -1;
    const mast_network *n = &g->network->net;
    if (n->obs != team->obs || n->actions != team->actions) {
        PyErr_SetString(PyExc_ValueError, "networks of different contracts");
        return -1;
    }
    team->weights += g->network->weights * g->size;
    if (g->network->lanes) {
        if ((size_t)group_tiles(g) > (size_t)PY_SSIZE_T_MAX / sizeof(mast_hit) / (tile_floats(g) + n->obs)) {
            PyErr_NoMemory();
            return -1;
        }
        const size_t size = group_tiles(g) * tile_floats(g) * sizeof(float);
        return (g->yh = allocate(size)) && (g->next = allocate(size))
                       && (g->hit = allocate((size_t)group_tiles(g) * n->obs * sizeof(mast_hit)))
                       && (g->hits = allocate(group_tiles(g) * sizeof(uint32_t)))
                       && (g->work = allocate(mast_tile_floats(n) * sizeof(float)))
                   ? 0
                   : -1;
    }
    const size_t each = mast_state_floats(n);
    if (g->size > (size_t)PY_SSIZE_T_MAX / (sizeof(mast_state) + each * sizeof(float))) {
        PyErr_NoMemory();
        return -1;
    }
    if (!(g->states = allocate(g->size * sizeof(mast_state))) || !(g->work = allocate(each * g->size * sizeof(float))))
        return -1;
    for (uint32_t i = 0; i < g->size; i++)
        mast_state_init(n, &g->states[i], g->work + i * each, (uint32_t)team->id[g->member[i]]);
    return 0;
}

static int group_act(Team *team, Group *g, const mast_given *given)
{
    const mast_network *n = &g->network->net;
    const mast_kernels *k = g->network->kernels;
    const uint8_t *const avail = given->avail;
    for (uint32_t t = 0; g->yh && t < group_tiles(g); t++) {
        const uint32_t first = t * MAST_LANES, left = g->size - first;
        const mast_tile tile = {.lanes = left < MAST_LANES ? left : MAST_LANES, .member = g->member + first,
                                .given = given, .id = team->id, .last_action = team->last_action, .yh = g->yh + t * tile_floats(g), .next = g->next + t * tile_floats(g),
                                .q = team->next_q, .action = team->next_action, .hit = g->hit + (size_t)t * n->obs,
                                .hits = g->hits + t};
        const int fault = k->tile(n, g->work, &tile);
        if (fault)
            return fault;
    }
    for (uint32_t i = 0; g->states && i < g->size; i++) {
        const size_t who = (size_t)g->member[i];
        const int fault = k->forward(n, &g->states[i], mast_joined(n, &g->states[i], given, who));
        if (fault)
            return fault;
        memcpy(team->next_q + who * n->actions, g->states[i].next_q, n->actions * sizeof(float));
        team->next_action[who] = k->choose(g->states[i].next_q, avail ? avail + who * n->actions : NULL, n->actions);
    }
    return 0;
}
