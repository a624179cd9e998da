"""The recurrence of a GRU for many groups, all steps in one launch where the recurrent weights stay on the chip.

`sequence.gru_sequence` is the one entry; it runs dense (Triton) or on the connections alone (CUDA C++).
"""
