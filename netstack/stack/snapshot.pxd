"""State into bytes and back."""

from netstack.stack.stack cimport Stack


cdef bytes snapshot_stack(Stack stack)
cdef Stack restore_stack(object cls, object data, object now_ns, object links)
