"""The Stack as Python holds it. The driver takes ``stack.c`` by pointer and the ``links`` it keeps alive."""

from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t


cdef class Stack:
    cdef stack_t *c
    cdef readonly object config
    cdef readonly list links     # Link objects, by interface index; the last is the loopback
    cdef object __weakref__

    cdef StackSocket wrap(self, sock_t *sock)


cdef class StackSocket:
    cdef readonly Stack stack
    cdef sock_t *sock            # NULL once closed
    cdef readonly int family
    cdef object __weakref__

    cdef sock_t *live(self) except NULL
