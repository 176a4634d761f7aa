"""The Stack as Python holds it. The driver takes ``stack.c`` by pointer and the ``links`` it keeps alive."""

from netstack.stack.core cimport stack_t


cdef class Stack:
    cdef stack_t *c
    cdef readonly object config
    cdef readonly list links     # Link objects, by interface index (0 is the first of the config; the loopback is last)
    cdef object __weakref__
