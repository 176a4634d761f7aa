"""Declarations of ``netstack/daemon_shared.h``: what the daemon and its clients share."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "netstack/daemon_shared.h" nogil:
    enum:
        NSD_PAGE
        NSD_NOTES
        NSD_STREAM
        NSD_SHUT
        NSD_EOF
        NSD_CUT
        NSD_NOTE_DATA
        NSD_NOTE_SPACE

    ctypedef struct nsd_down_t:
        uint64_t tail
        uint64_t head
        uint32_t bell
        uint32_t events
        uint32_t error
        uint32_t note
        uint32_t kicking
        uint32_t kicked
        uint32_t drained

    ctypedef struct nsd_up_t:
        uint64_t tail
        uint64_t head
        uint32_t waiting
        uint32_t armed
        uint32_t filled
        uint32_t error_taken
        uint64_t seen

    uint64_t nsd_load64(uint64_t *w)
    uint32_t nsd_load32(uint32_t *w)
    void nsd_store64(uint64_t *w, uint64_t v)
    void nsd_store32(uint32_t *w, uint32_t v)
    uint32_t nsd_note_at(nsd_up_t *board, uint64_t index)
    void nsd_fence()
