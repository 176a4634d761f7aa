"""The tables of what a snapshot has of each structure."""


cdef dict tables()       # name of the structure -> [(name, offset, size, is it a time)]
