"""State into bytes and back."""

from netstack.errors import SnapshotError


cdef bytes snapshot_stack(Stack stack):
    raise SnapshotError("not yet")


cdef Stack restore_stack(object cls, object data, object now_ns, object links):
    raise SnapshotError("not yet")
