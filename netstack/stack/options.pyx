"""setsockopt and getsockopt with Linux's numbers, sizes and quirks; sysctls by their full Linux names."""

from libc.errno cimport EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, EOPNOTSUPP
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from netstack.clock cimport NS_PER_S
from netstack.sock cimport (
    EVENT_OUT, SF_BROADCAST, SF_KEEPALIVE, SF_REUSEADDR, SF_REUSEPORT, SF_V6, SOCK_PING, SOCK_RAW, SOCK_TCP,
    SOCK_UDPLITE, kind_is_udp, sock_event,
)
from netstack.stack.ip_options cimport ip_option_get, ip_option_set, ip_sysctl_get, ip_sysctl_set, is_ip_sysctl
from netstack.stack.options6 cimport (
    ipv6_option_get, ipv6_option_set, sysctl6_get, sysctl6_known, sysctl6_set,
)
from netstack.stack.tcp_info cimport (
    CC_INFO_BYTES, MEMINFO_WORDS, cc_info_fill, meminfo_fill, tcp_info_fill, tcp_info_t,
)
from netstack.tcp.buffers cimport send_writable, unsent_bytes
from netstack.tcp.congestion.controller cimport (
    CONGESTION_NAME, congestion_find, congestion_names, congestion_set_paced, congestion_switch,
)
from netstack.tcp.connection cimport keepalive_start
from netstack.tcp.fast_open cimport TFO_CLIENT, fast_open_make_keys
from netstack.tcp.settings cimport fin_timeout_ns, keepalive_count, keepalive_idle_ns, keepalive_interval_ns, settings_own
from netstack.tcp.tcb cimport (
    CLOSED, ESTABLISHED, FO_CONNECT, FO_NO_COOKIE, LISTEN, TF_ACK_NOW, TF_CORK, TF_FORCE, TF_LINGER, TF_MORE, TF_NODELAY,
    TF_WANT_WRITE, TIME_WAIT,
    TM_CC_CHOSEN, TM_RCVBUF_SET, TM_SNDBUF_SET, congestion_ops_t, send_segment_limit, settings_t, tcb_t, tcp_config_t, want_output,
)
from netstack.udp.endpoint cimport udp_endpoint_t

from netstack.congestion import find as find_algorithm

cdef enum:
    SOL_SOCKET = 1
    SOL_IP = 0
    SOL_TCP = 6
    SOL_UDP = 17
    SOL_IPV6 = 41
    SO_REUSEADDR = 2
    SO_TYPE = 3
    SO_ERROR = 4
    SO_BROADCAST = 6
    SO_SNDBUF = 7
    SO_RCVBUF = 8
    SO_KEEPALIVE = 9
    SO_OOBINLINE = 10
    SO_LINGER = 13
    SO_REUSEPORT = 15
    SO_RCVLOWAT = 18
    SO_ACCEPTCONN = 30
    SO_PROTOCOL = 38
    SO_DOMAIN = 39
    SO_MAX_PACING_RATE = 47
    SO_MEMINFO = 55
    TCP_NODELAY = 1
    TCP_MAXSEG = 2
    TCP_CORK = 3
    TCP_KEEPIDLE = 4
    TCP_KEEPINTVL = 5
    TCP_KEEPCNT = 6
    TCP_SYNCNT = 7
    TCP_LINGER2 = 8
    TCP_DEFER_ACCEPT = 9
    TCP_WINDOW_CLAMP = 10
    TCP_INFO = 11
    TCP_QUICKACK = 12
    TCP_CONGESTION = 13
    TCP_USER_TIMEOUT = 18
    TCP_FASTOPEN = 23
    TCP_NOTSENT_LOWAT = 25
    TCP_CC_INFO = 26
    TCP_FASTOPEN_CONNECT = 30
    TCP_FASTOPEN_KEY = 33
    TCP_FASTOPEN_NO_COOKIE = 34
    FASTOPEN_KEY_BYTES = 16
    DEFER_MAX_S = 120            # between two SYN,ACKs
    IP_TOS = 1
    IP_TTL = 2
    BUFFER_MIN = 4096            # bytes; below it a window could not hold two segments
    BUFFER_MAX = 1 << 29
    FIN_TIMEOUT_MAX_S = 120
    NO_RATE = 0xffffffff


cdef inline void set_flag(tcb_t *tcb, uint32_t flag, bint on) noexcept nogil:
    if on:
        tcb.flags |= flag
    else:
        tcb.flags &= ~flag


cdef inline void set_sock_flag(sock_t *sock, uint16_t flag, bint on) noexcept nogil:
    if on:
        sock.flags |= flag
    else:
        sock.flags &= ~flag


cdef uint32_t buffer_size(int32_t asked) noexcept nogil:
    """Linux doubles what is asked for, to cover its bookkeeping; programs read the doubled value back."""
    if asked < BUFFER_MIN // 2:
        return BUFFER_MIN
    if asked > BUFFER_MAX:
        return 2 * <uint32_t> BUFFER_MAX
    return 2 * <uint32_t> asked


cdef bint has_level(const sock_t *sock, int level) noexcept nogil:
    """Whether a level of options is one of this socket's protocols."""
    if level == SOL_TCP:
        return sock.kind == SOCK_TCP
    if level == SOL_UDP:
        return kind_is_udp(sock.kind)
    if level == SOL_IPV6:
        return sock.flags & SF_V6 != 0
    return level == SOL_SOCKET or level == SOL_IP or sock.kind == SOCK_RAW or sock.kind == SOCK_UDPLITE


cdef bint option_known(stack_t *stack, sock_t *sock, int level, int name) noexcept nogil:
    cdef uint8_t value[64]
    cdef uint32_t n = sizeof(value)
    return option_get(stack, sock, level, name, value, &n) != -ENOPROTOOPT


cdef int option_set(stack_t *stack, sock_t *sock, int level, int name, const uint8_t *value, uint32_t n) noexcept nogil:
    cdef int32_t v = 0
    cdef tcb_t *tcb = <tcb_t *> sock if sock.kind == SOCK_TCP else NULL
    cdef int r
    if not has_level(sock, level):
        return -ENOPROTOOPT
    if level == SOL_TCP and name == TCP_CONGESTION and tcb != NULL:
        return set_congestion(stack, tcb, value, n)
    if tcb == NULL and level != SOL_SOCKET:
        r = ip_option_set(stack, <udp_endpoint_t *> sock, level, name, value, n)
        if r != -ENOPROTOOPT:
            return r
    if level == SOL_TCP and name == TCP_FASTOPEN_KEY and tcb != NULL:
        return set_fastopen_key(tcb, value, n)
    if n < sizeof(int32_t):
        if level == SOL_IP:                            # whose options also come as one byte, or none at all
            if n == 0 and name == IP_TTL:
                return -EINVAL
            v = value[0] if n else 0
        elif level == SOL_IPV6:
            return -EINVAL if option_known(stack, sock, level, name) else -ENOPROTOOPT
        else:
            return -EINVAL
    else:
        memcpy(&v, value, sizeof(v))
    if level == SOL_SOCKET:
        return set_socket_level(stack, sock, tcb, name, v, value, n)
    if level == SOL_TCP:
        return set_tcp_level(stack, tcb, name, v) if tcb != NULL else -ENOPROTOOPT
    if level == SOL_IP:
        return set_ip_level(sock, tcb, name, v)
    if level == SOL_IPV6:
        return ipv6_option_set(stack, sock, name, v, value, n)
    return -ENOPROTOOPT


cdef int set_socket_level(stack_t *stack, sock_t *sock, tcb_t *tcb, int name, int32_t v, const uint8_t *value,
                          uint32_t n) noexcept nogil:
    cdef int32_t seconds
    cdef settings_t *settings
    if name == SO_REUSEADDR:
        set_sock_flag(sock, SF_REUSEADDR, v)
    elif name == SO_REUSEPORT:
        set_sock_flag(sock, SF_REUSEPORT, v)
    elif name == SO_BROADCAST:
        set_sock_flag(sock, SF_BROADCAST, v)
    elif name == SO_KEEPALIVE:
        set_sock_flag(sock, SF_KEEPALIVE, v)
        if tcb != NULL:
            if v and tcb.state >= ESTABLISHED and tcb.state != TIME_WAIT:
                keepalive_start(tcb)
            elif not v:
                tcb.keepalive_deadline = 0
    elif name == SO_SNDBUF:
        if tcb != NULL:
            tcb.snd_wanted = buffer_size(v)
            tcb.modes |= TM_SNDBUF_SET
        else:
            (<udp_endpoint_t *> sock).sndbuf = buffer_size(v)
    elif name == SO_RCVBUF:
        if tcb != NULL:
            tcb.rcv_wanted = buffer_size(v)
            tcb.modes |= TM_RCVBUF_SET
        else:
            (<udp_endpoint_t *> sock).rcvbuf = buffer_size(v)
    elif name == SO_LINGER:
        if n < 8:
            return -EINVAL
        if tcb != NULL:
            memcpy(&seconds, value + 4, 4)
            settings = settings_own(tcb)
            if settings == NULL:
                return -ENOMEM
            set_flag(tcb, TF_LINGER, v)
            settings.linger_s = seconds if seconds > 0 else 0
    elif name == SO_OOBINLINE or name == SO_RCVLOWAT:
        return 0
    elif name == SO_MAX_PACING_RATE:
        if tcb != NULL:
            return set_max_pacing_rate(tcb, value, n)
    else:
        return -ENOPROTOOPT
    return 0


cdef int set_max_pacing_rate(tcb_t *tcb, const uint8_t *value, uint32_t n) noexcept nogil:
    """Bytes per second in 4 or 8 bytes; all ones: no limit."""
    cdef uint32_t narrow
    cdef uint64_t rate
    cdef settings_t *settings = settings_own(tcb)
    if settings == NULL:
        return -ENOMEM
    if n >= sizeof(rate):
        memcpy(&rate, value, sizeof(rate))
    else:
        memcpy(&narrow, value, sizeof(narrow))
        rate = narrow if narrow != NO_RATE else 0
    settings.max_pacing_rate = rate if rate != <uint64_t> -1 else 0
    congestion_set_paced(tcb)
    if tcb.state >= ESTABLISHED:
        want_output(tcb)
    return 0


cdef int set_tcp_level(stack_t *stack, tcb_t *tcb, int name, int32_t v) noexcept nogil:
    if name == TCP_NODELAY:
        set_flag(tcb, TF_NODELAY, v)
        if v and tcb.state >= ESTABLISHED:
            tcb.flags &= ~TF_MORE
            if tcb.flags & TF_CORK and unsent_bytes(tcb):
                tcb.flags |= TF_FORCE                  # as Linux: what is queued goes, the cork holds what comes
            want_output(tcb)
    elif name == TCP_CORK:
        set_flag(tcb, TF_CORK, v)
        if not v:
            tcb.flags &= ~TF_MORE
        if not v and tcb.state >= ESTABLISHED:
            want_output(tcb)
    elif name == TCP_QUICKACK:
        # As Linux: on, the next segments are acknowledged at once, and what is owed now; off, delayed until data goes the
        # other way. Neither lasts.
        tcb.quickack = tcb.tcp.config.quickack_segments if v & 1 else 0
        if v & 1 and tcb.ack_pending and tcb.state >= ESTABLISHED:
            tcb.flags |= TF_ACK_NOW
            want_output(tcb)
    elif name == TCP_FASTOPEN_CONNECT:
        if v < 0 or v > 1:
            return -EINVAL
        if not stack.tcp.config.fastopen & TFO_CLIENT:
            return -EOPNOTSUPP
        if tcb.state != CLOSED:
            return -EINVAL
        set_fast_open(tcb, FO_CONNECT, v)
    elif name == TCP_FASTOPEN_NO_COOKIE:
        if v < 0 or v > 1 or tcb.state not in (CLOSED, LISTEN):
            return -EINVAL
        set_fast_open(tcb, FO_NO_COOKIE, v)
    elif name == TCP_SYNCNT:
        return 0 if 1 <= v <= 127 else -EINVAL
    elif name in (TCP_MAXSEG, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT, TCP_LINGER2,
                  TCP_WINDOW_CLAMP, TCP_DEFER_ACCEPT, TCP_FASTOPEN):
        return set_setting(stack, tcb, name, v)
    else:
        return -ENOPROTOOPT
    return 0


cdef int set_setting(stack_t *stack, tcb_t *tcb, int name, int32_t v) noexcept nogil:
    """Options that are kept in settings_t."""
    cdef settings_t *settings
    if name == TCP_MAXSEG and v and (v < 88 or v > 32767):
        return -EINVAL
    elif (name == TCP_KEEPIDLE or name == TCP_KEEPINTVL) and (v < 1 or v > 32767):
        return -EINVAL
    elif name == TCP_KEEPCNT and (v < 1 or v > 127):
        return -EINVAL
    elif name == TCP_USER_TIMEOUT and v < 0:
        return -EINVAL
    elif name == TCP_WINDOW_CLAMP and v == 0 and tcb.state != CLOSED:
        return -EINVAL
    elif name == TCP_FASTOPEN and (v < 0 or tcb.state not in (CLOSED, LISTEN)):
        return -EINVAL
    settings = settings_own(tcb)
    if settings == NULL:
        return -ENOMEM
    if name == TCP_MAXSEG:
        settings.user_mss = <uint16_t> v
    elif name == TCP_KEEPIDLE:
        settings.keepalive_idle_s = <uint16_t> v
        if tcb.keepalive_deadline:
            keepalive_start(tcb)
    elif name == TCP_KEEPINTVL:
        settings.keepalive_interval_s = <uint16_t> v
    elif name == TCP_KEEPCNT:
        settings.keepalive_count = <uint8_t> v
    elif name == TCP_USER_TIMEOUT:
        settings.user_timeout_ms = v
    elif name == TCP_NOTSENT_LOWAT:
        settings.notsent_lowat = <uint32_t> v if v > 0 else 0
        if tcb.flags & TF_WANT_WRITE and send_writable(tcb):
            sock_event(&stack.tcp.events, &tcb.sock, EVENT_OUT)
    elif name == TCP_LINGER2:
        settings.linger2_ms = -1 if v < 0 else (v if v < FIN_TIMEOUT_MAX_S else FIN_TIMEOUT_MAX_S) * 1000
    elif name == TCP_WINDOW_CLAMP:
        settings.window_clamp = 0 if v <= 0 else (v if v > BUFFER_MIN // 2 else BUFFER_MIN // 2)
    elif name == TCP_DEFER_ACCEPT:
        settings.defer_accept = seconds_to_retransmits(v)
    else:
        fast_open_make_keys(&stack.tcp)
        settings.fast_open_max = <uint32_t> v if <uint32_t> v < stack.tcp.config.somaxconn else stack.tcp.config.somaxconn
    return 0


cdef inline void set_fast_open(tcb_t *tcb, uint16_t bit, bint on) noexcept nogil:
    if on:
        tcb.fast_open |= bit
    else:
        tcb.fast_open &= ~bit


cdef uint8_t seconds_to_retransmits(int32_t seconds) noexcept nogil:
    """As Linux: after how many timeouts of the SYN,ACK that much time is over."""
    cdef int64_t timeout = 1, period = 1
    cdef int n = 1
    if seconds <= 0:
        return 0
    while seconds > period and n < 255:
        n += 1
        timeout = 2 * timeout if 2 * timeout < DEFER_MAX_S else DEFER_MAX_S
        period += timeout
    return <uint8_t> n


cdef int32_t retransmits_to_seconds(uint8_t n) noexcept nogil:
    cdef int32_t timeout = 1, period = 1
    if n == 0:
        return 0
    while n > 1:
        n -= 1
        timeout = 2 * timeout if 2 * timeout < DEFER_MAX_S else DEFER_MAX_S
        period += timeout
    return period


cdef int set_fastopen_key(tcb_t *tcb, const uint8_t *value, uint32_t n) noexcept nogil:
    """One key, or two: cookies of the second are still good."""
    cdef settings_t *settings
    if n != FASTOPEN_KEY_BYTES and n != 2 * FASTOPEN_KEY_BYTES or tcb.state not in (CLOSED, LISTEN):
        return -EINVAL
    settings = settings_own(tcb)
    if settings == NULL:
        return -ENOMEM
    memcpy(settings.fast_open_keys, value, n)
    settings.fast_open_key_count = <uint8_t> (n // FASTOPEN_KEY_BYTES)
    return 0


cdef int set_congestion(stack_t *stack, tcb_t *tcb, const uint8_t *value, uint32_t n) noexcept nogil:
    cdef char text[17]
    cdef const congestion_ops_t *ops
    if n < 1:
        return -EINVAL
    memset(text, 0, sizeof(text))
    memcpy(text, value, n if n < CONGESTION_NAME else CONGESTION_NAME - 1)
    ops = congestion_find(text)
    if ops == NULL:
        return -ENOENT
    tcb.modes |= TM_CC_CHOSEN
    congestion_switch(tcb, ops)
    if tcb.state >= ESTABLISHED:
        want_output(tcb)
    return 0


cdef int set_ip_level(sock_t *sock, tcb_t *tcb, int name, int32_t v) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    if name == IP_TTL:
        if v != -1 and (v < 1 or v > 255):
            return -EINVAL
        if v == -1:
            v = 64
        if tcb != NULL:
            tcb.ttl = <uint8_t> v
        else:
            ep.ttl = <uint8_t> v
    elif name == IP_TOS:
        if tcb != NULL:
            tcb.tos = <uint8_t> (v & ~3)               # the ECN bits are TCP's own
        else:
            ep.tos = <uint8_t> v
    else:
        return -ENOPROTOOPT
    return 0


cdef int option_get(stack_t *stack, sock_t *sock, int level, int name, uint8_t *value, uint32_t *n) noexcept nogil:
    """Write the value and set *n* to its size; a shorter buffer gets the first bytes, as Linux does."""
    cdef int32_t v = 0
    cdef int32_t pair[2]
    cdef uint64_t rate
    cdef uint32_t words[MEMINFO_WORDS]
    cdef uint8_t text[CC_INFO_BYTES]
    cdef tcp_info_t info
    cdef tcb_t *tcb = <tcb_t *> sock if sock.kind == SOCK_TCP else NULL
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    cdef int r
    if not has_level(sock, level):
        return -ENOPROTOOPT if sock.flags & SF_V6 else -EOPNOTSUPP     # as Linux
    if tcb == NULL and level != SOL_SOCKET:
        r = ip_option_get(stack, ep, level, name, value, n)
        if r != -ENOPROTOOPT:
            return r
    if level == SOL_SOCKET:
        if name == SO_TYPE:
            v = 1 if sock.kind == SOCK_TCP else (3 if sock.kind == SOCK_RAW else 2)
        elif name == SO_ERROR:
            v = sock.error
            sock.error = 0
            if not v and tcb != NULL:
                v = tcb.soft_error                     # as Linux: what ICMP said, when nothing worse happened
                tcb.soft_error = 0
        elif name == SO_REUSEADDR:
            v = (sock.flags & SF_REUSEADDR) != 0
        elif name == SO_REUSEPORT:
            v = (sock.flags & SF_REUSEPORT) != 0
        elif name == SO_BROADCAST:
            v = (sock.flags & SF_BROADCAST) != 0
        elif name == SO_KEEPALIVE:
            v = (sock.flags & SF_KEEPALIVE) != 0
        elif name == SO_SNDBUF:
            v = tcb.snd_wanted if tcb != NULL else ep.sndbuf
        elif name == SO_RCVBUF:
            v = tcb.rcv_wanted if tcb != NULL else ep.rcvbuf
        elif name == SO_ACCEPTCONN:
            v = 1 if tcb != NULL and tcb.state == LISTEN else 0
        elif name == SO_PROTOCOL:
            v = 6 if tcb != NULL else ep.protocol if sock.kind == SOCK_RAW else (
                136 if sock.kind == SOCK_UDPLITE else 17 if sock.kind != SOCK_PING else (58 if sock.flags & SF_V6 else 1))
        elif name == SO_DOMAIN:
            v = 10 if sock.flags & SF_V6 else 2
        elif name == SO_MAX_PACING_RATE:
            rate = tcb.settings.max_pacing_rate if tcb != NULL and tcb.settings.max_pacing_rate else <uint64_t> -1
            if n[0] >= sizeof(rate):
                return give(value, n, <uint8_t *> &rate, sizeof(rate))
            v = <int32_t> (rate if rate < NO_RATE else NO_RATE)
        elif name == SO_MEMINFO:
            meminfo_fill(sock, words)
            return give(value, n, <uint8_t *> words, sizeof(words))
        elif name == SO_RCVLOWAT:
            v = 1
        elif name == SO_OOBINLINE:
            v = 1
        elif name == SO_LINGER:
            pair[0] = 1 if tcb != NULL and tcb.flags & TF_LINGER else 0
            pair[1] = tcb.settings.linger_s if tcb != NULL else 0
            return give(value, n, <uint8_t *> pair, 8)
        else:
            return -ENOPROTOOPT
    elif level == SOL_TCP and tcb != NULL:
        if name == TCP_NODELAY:
            v = (tcb.flags & TF_NODELAY) != 0
        elif name == TCP_CORK:
            v = (tcb.flags & TF_CORK) != 0
        elif name == TCP_QUICKACK:
            v = 1 if tcb.quickack else 0
        elif name == TCP_MAXSEG:
            v = send_segment_limit(tcb)
            if tcb.state in (CLOSED, LISTEN) and tcb.settings.user_mss:
                v = tcb.settings.user_mss
        elif name == TCP_KEEPIDLE:
            v = <int32_t> (keepalive_idle_ns(tcb) // NS_PER_S)
        elif name == TCP_KEEPINTVL:
            v = <int32_t> (keepalive_interval_ns(tcb) // NS_PER_S)
        elif name == TCP_KEEPCNT:
            v = keepalive_count(tcb)
        elif name == TCP_SYNCNT:
            v = stack.tcp.config.syn_retries
        elif name == TCP_USER_TIMEOUT:
            v = tcb.settings.user_timeout_ms
        elif name == TCP_NOTSENT_LOWAT:
            v = tcb.settings.notsent_lowat
        elif name == TCP_DEFER_ACCEPT:
            v = retransmits_to_seconds(tcb.settings.defer_accept)
        elif name == TCP_FASTOPEN:
            v = tcb.settings.fast_open_max
        elif name == TCP_FASTOPEN_CONNECT:
            v = (tcb.fast_open & FO_CONNECT) != 0
        elif name == TCP_FASTOPEN_NO_COOKIE:
            v = (tcb.fast_open & FO_NO_COOKIE) != 0
        elif name == TCP_FASTOPEN_KEY:
            if tcb.settings.fast_open_key_count:
                return give(value, n, <uint8_t *> tcb.settings.fast_open_keys, tcb.settings.fast_open_key_count * FASTOPEN_KEY_BYTES)
            fast_open_make_keys(&stack.tcp)
            return give(value, n, <uint8_t *> stack.tcp.fast_open.keys,
                        stack.tcp.fast_open.key_count * FASTOPEN_KEY_BYTES)
        elif name == TCP_LINGER2:
            v = <int32_t> (fin_timeout_ns(tcb) // NS_PER_S) if tcb.settings.linger2_ms >= 0 else -1
        elif name == TCP_WINDOW_CLAMP:
            v = tcb.settings.window_clamp
        elif name == TCP_CONGESTION:
            memset(text, 0, 16)
            memcpy(text, tcb.cc_ops.name, strlen(tcb.cc_ops.name))
            return give(value, n, text, 16)
        elif name == TCP_INFO:
            tcp_info_fill(stack, tcb, &info)
            return give(value, n, <uint8_t *> &info, sizeof(info))
        elif name == TCP_CC_INFO:
            return give(value, n, text, cc_info_fill(tcb, text))
        else:
            return -ENOPROTOOPT
    elif level == SOL_IP:
        if name == IP_TTL:
            v = tcb.ttl if tcb != NULL else ep.ttl
        elif name == IP_TOS:
            v = tcb.tos if tcb != NULL else ep.tos
        else:
            return -ENOPROTOOPT
    elif level == SOL_IPV6:
        r = ipv6_option_get(stack, sock, name, &v)
        if r < 0:
            return r
    else:
        return -ENOPROTOOPT
    return give(value, n, <uint8_t *> &v, 4)


cdef int give(uint8_t *value, uint32_t *n, const uint8_t *p, uint32_t size) noexcept nogil:
    if n[0] > size:
        n[0] = size
    memcpy(value, p, n[0])
    return 0


# --- sysctls ----------------------------------------------------------------------------------------------------------

SYSCTLS = {
    # name: (smallest, largest)
    "net.ipv4.tcp_timestamps": (0, 2),
    "net.ipv4.tcp_sack": (0, 1),
    "net.ipv4.tcp_window_scaling": (0, 1),
    "net.ipv4.tcp_slow_start_after_idle": (0, 1),
    "net.ipv4.tcp_syn_retries": (1, 127),
    "net.ipv4.tcp_synack_retries": (0, 127),
    "net.ipv4.tcp_retries2": (0, 100),
    "net.ipv4.tcp_orphan_retries": (0, 100),
    "net.ipv4.tcp_fin_timeout": (0, 86400),
    "net.ipv4.tcp_max_tw_buckets": (0, 1 << 24),
    "net.ipv4.tcp_max_orphans": (0, 1 << 24),
    "net.ipv4.tcp_mem": None,
    "net.ipv4.tcp_challenge_ack_limit": (0, 0x7fffffff),
    "net.ipv4.tcp_keepalive_time": (1, 32767),
    "net.ipv4.tcp_keepalive_intvl": (1, 32767),
    "net.ipv4.tcp_keepalive_probes": (1, 127),
    "net.ipv4.tcp_min_snd_mss": (48, 65535),
    "net.ipv4.tcp_ecn": (0, 5),
    "net.ipv4.tcp_ecn_fallback": (0, 1),
    "net.ipv4.tcp_ecn_option": (0, 2),
    "net.ipv4.tcp_ecn_option_beacon": (0, 3),
    "net.ipv4.tcp_rto_min_us": (1000, 120000000),
    "net.ipv4.tcp_delayed_ack_ms": (1, 499),           # Linux has it as a constant; RFC 9293 section 3.8.6.3: below 500
    "net.ipv4.tcp_quickack_segments": (0, 255),        # a constant too
    "net.core.somaxconn": (0, 1 << 20),
    "net.ipv4.tcp_syncookies": (0, 2),
    "net.ipv4.tcp_max_syn_backlog": (1, 1 << 20),
    "net.ipv4.tcp_abort_on_overflow": (0, 1),
    "net.ipv4.tcp_fastopen": (0, 0x7fffffff),
    "net.ipv4.tcp_fastopen_key": None,
    "net.ipv4.tcp_fastopen_blackhole_timeout_sec": (0, 0x7fffffff),
    "net.core.rmem_default": (BUFFER_MIN, BUFFER_MAX),
    "net.core.rmem_max": (BUFFER_MIN, BUFFER_MAX),
    "net.core.wmem_default": (BUFFER_MIN, BUFFER_MAX),
    "net.core.wmem_max": (BUFFER_MIN, BUFFER_MAX),
    "net.ipv4.tcp_moderate_rcvbuf": (0, 1),
    "net.ipv4.tcp_notsent_lowat": (0, 0xffffffff),
    "net.ipv4.tcp_dsack": (0, 1),
    "net.ipv4.tcp_early_retrans": (0, 4),
    "net.ipv4.tcp_recovery": (0, 7),
    "net.ipv4.tcp_frto": (0, 2),
    "net.ipv4.tcp_reordering": (1, 127),
    "net.ipv4.tcp_max_reordering": (1, 65535),
    "net.ipv4.tcp_mtu_probing": (0, 2),
    "net.ipv4.tcp_base_mss": (88, 65495),
    "net.ipv4.tcp_retries1": (0, 255),
    "net.ipv4.tcp_rmem": None,
    "net.ipv4.tcp_wmem": None,
    "net.ipv4.ip_local_port_range": None,
    "net.ipv4.tcp_congestion_control": None,
    "net.ipv4.tcp_available_congestion_control": None,
    "net.ipv4.tcp_cubic_hystart": (0, 2),
    "net.ipv4.tcp_min_tso_segs": (1, 255),
    "net.ipv4.tcp_pacing_ss_ratio": (0, 1000),
    "net.ipv4.tcp_pacing_ca_ratio": (0, 1000),
    "net.core.default_qdisc": None,
}


cdef int check_range(str name, object value) except -1:
    low, high = SYSCTLS[name]
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: from {low} to {high}")
    return 0


cdef int set_stack_keys(stack_t *stack, str text) except -1:
    """``"0-1-2-3"``, four words of 32 bits in hexadecimal; a backup key behind a comma."""
    keys = text.split(",")
    try:
        words = [[int(word, 16) for word in key.split("-")] for key in keys]
    except ValueError:
        words = []
    if not 1 <= len(words) <= 2 or any(len(key) != 4 or not all(0 <= w < 1 << 32 for w in key) for key in words):
        raise ValueError(f"net.ipv4.tcp_fastopen_key = {text!r}: a key is four words of 32 bits, as in 0-1-2-3")
    for i, key in enumerate(words):
        stack.tcp.fast_open.keys[2 * i] = key[0] | key[1] << 32
        stack.tcp.fast_open.keys[2 * i + 1] = key[2] | key[3] << 32
    stack.tcp.fast_open.key_count = len(words)
    return 0


cdef str stack_keys(stack_t *stack):
    fast_open_make_keys(&stack.tcp)
    keys = []
    for i in range(stack.tcp.fast_open.key_count):
        a, b = stack.tcp.fast_open.keys[2 * i], stack.tcp.fast_open.keys[2 * i + 1]
        keys.append("-".join(f"{w & 0xffffffff:08x}" for w in (a, a >> 32, b, b >> 32)))
    return ",".join(keys)


cdef int sysctl_set(stack_t *stack, str name, object value) except -1:
    """Raises KeyError for a name we do not have, ValueError for a value out of range."""
    cdef tcp_config_t *c = &stack.tcp.config
    cdef const congestion_ops_t *ops
    if is_ip_sysctl(name):
        return ip_sysctl_set(stack, name, value)
    if sysctl6_known(name):
        return sysctl6_set(stack, name, value)
    if name not in SYSCTLS:
        raise KeyError(f"no setting {name!r}; there are: {', '.join(sorted(SYSCTLS))}")
    if name == "net.ipv4.tcp_congestion_control":
        text = str(value).encode()
        find_algorithm(text)                           # a package may offer it
        ops = congestion_find(text)
        if ops == NULL:
            raise ValueError(f"no congestion control {value!r}")
        stack.tcp.congestion = ops
        return 0
    if name == "net.ipv4.tcp_available_congestion_control":
        raise ValueError(f"{name} can only be read")
    if name == "net.core.default_qdisc":
        if value not in ("fq", "pfifo_fast"):
            raise ValueError(f"{name} = {value!r}: fq paces every connection, pfifo_fast only those that ask for it")
        c.pacing = value == "fq"
        return 0
    if name == "net.ipv4.ip_local_port_range":
        low, high = (int(v) for v in (value.split() if isinstance(value, str) else value))
        if not 1 <= low < high <= 65535:
            raise ValueError(f"{name} = {value}: two ports, low and high")
        c.port_first, c.port_last = low, high
        return 0
    if name == "net.ipv4.tcp_fastopen_key":
        set_stack_keys(stack, str(value))
        return 0
    if name == "net.ipv4.tcp_mem":                     # pages of 4 KiB, as Linux; only the last one counts here
        *_, value = value.split() if isinstance(value, str) else value if isinstance(value, (tuple, list)) else (value,)
        if not 16 <= int(value) <= 1 << 32:
            raise ValueError(f"{name} = {value}: pages of 4 KiB, from 16 to {1 << 32}")
        c.mem_max = int(value) * 4096
        return 0
    if name in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        low, middle, high = (int(v) for v in (value.split() if isinstance(value, str) else value))
        if not 1 <= low <= middle <= high <= BUFFER_MAX:
            raise ValueError(f"{name} = {value}: three sizes in bytes, rising: smallest, default, largest")
        if name == "net.ipv4.tcp_rmem":
            c.rmem_default, c.rmem_max = middle, high
        else:
            c.wmem_default, c.wmem_max = middle, high
        return 0
    value = int(value)
    check_range(name, value)
    short = name.rpartition(".")[2]
    if short == "tcp_syncookies":
        c.syncookies = value
    elif short == "tcp_max_syn_backlog":
        c.max_syn_backlog = value
    elif short == "tcp_abort_on_overflow":
        c.abort_on_overflow = value
    elif short == "tcp_fastopen":
        c.fastopen = value
    elif short == "tcp_fastopen_blackhole_timeout_sec":
        c.fastopen_blackhole_timeout_s = value
        stack.tcp.fast_open.blackholes = 0             # as Linux: setting it is a new beginning
    elif short == "tcp_timestamps":
        c.timestamps = value != 0
    elif short == "tcp_sack":
        c.sack = value
    elif short == "tcp_window_scaling":
        c.window_scaling = value
    elif short == "tcp_slow_start_after_idle":
        c.slow_start_after_idle = value
    elif short == "tcp_syn_retries":
        c.syn_retries = value
    elif short == "tcp_synack_retries":
        c.synack_retries = value
    elif short == "tcp_retries2":
        c.retries2 = value
    elif short == "tcp_orphan_retries":
        c.orphan_retries = value if value else 8
    elif short == "tcp_cubic_hystart":
        c.cubic_hystart = value
    elif short == "tcp_min_tso_segs":
        c.min_tso_segs = value
    elif short == "tcp_pacing_ss_ratio":
        c.pacing_ss_ratio = value
    elif short == "tcp_pacing_ca_ratio":
        c.pacing_ca_ratio = value
    elif short == "tcp_fin_timeout":
        c.fin_timeout_ms = value * 1000
    elif short == "tcp_max_orphans":
        c.max_orphans = value
    elif short == "tcp_max_tw_buckets":
        c.max_tw = value
    elif short == "tcp_challenge_ack_limit":
        c.challenge_ack_limit = value
    elif short == "tcp_keepalive_time":
        c.keepalive_time_s = value
    elif short == "tcp_keepalive_intvl":
        c.keepalive_intvl_s = value
    elif short == "tcp_keepalive_probes":
        c.keepalive_probes = value
    elif short == "tcp_min_snd_mss":
        c.min_snd_mss = value
    elif short == "tcp_ecn":
        c.ecn = value
    elif short == "tcp_ecn_fallback":
        c.ecn_fallback = value
    elif short == "tcp_ecn_option":
        c.ecn_option = value
    elif short == "tcp_ecn_option_beacon":
        c.ecn_option_beacon = value
    elif short == "tcp_dsack":
        c.dsack = value
    elif short == "tcp_early_retrans":
        c.early_retrans = value
    elif short == "tcp_recovery":
        c.recovery = value
    elif short == "tcp_frto":
        c.frto = value
    elif short == "tcp_reordering":
        c.reordering = value
    elif short == "tcp_max_reordering":
        c.max_reordering = value
    elif short == "tcp_mtu_probing":
        c.mtu_probing = value
    elif short == "tcp_base_mss":
        c.base_mss = value
    elif short == "tcp_retries1":
        c.retries1 = value
    elif short == "tcp_moderate_rcvbuf":
        c.moderate_rcvbuf = value
    elif short == "tcp_notsent_lowat":
        c.notsent_lowat = 0 if value == 0xffffffff else value
    elif short == "tcp_rto_min_us":
        c.rto_min_ms = value // 1000
    elif short == "tcp_delayed_ack_ms":
        c.delayed_ack_ms = value
    elif short == "tcp_quickack_segments":
        c.quickack_segments = value
    elif short == "somaxconn":
        c.somaxconn = value
    elif short == "rmem_default":
        c.rmem_default = value
    elif short == "rmem_max":
        c.rmem_max = value
    elif short == "wmem_default":
        c.wmem_default = value
    elif short == "wmem_max":
        c.wmem_max = value
    return 0


cdef object sysctl_get(stack_t *stack, str name):
    """The value as it stands; KeyError for a name we do not have."""
    cdef tcp_config_t *c = &stack.tcp.config
    if is_ip_sysctl(name):
        return ip_sysctl_get(stack, name)
    if sysctl6_known(name):
        return sysctl6_get(stack, name)
    if name not in SYSCTLS:
        raise KeyError(f"no setting {name!r}; there are: {', '.join(sorted(SYSCTLS))}")
    if name == "net.ipv4.tcp_fastopen_key":
        return stack_keys(stack)
    return {
        "tcp_syncookies": c.syncookies, "tcp_max_syn_backlog": c.max_syn_backlog,
        "tcp_abort_on_overflow": c.abort_on_overflow, "tcp_fastopen": c.fastopen,
        "tcp_fastopen_blackhole_timeout_sec": c.fastopen_blackhole_timeout_s,
        "tcp_timestamps": c.timestamps, "tcp_sack": c.sack, "tcp_window_scaling": c.window_scaling,
        "tcp_slow_start_after_idle": c.slow_start_after_idle, "tcp_syn_retries": c.syn_retries,
        "tcp_synack_retries": c.synack_retries, "tcp_retries2": c.retries2, "tcp_orphan_retries": c.orphan_retries,
        "tcp_max_orphans": c.max_orphans, "tcp_mem": c.mem_max // 4096,
        "tcp_fin_timeout": c.fin_timeout_ms // 1000, "tcp_max_tw_buckets": c.max_tw,
        "tcp_challenge_ack_limit": c.challenge_ack_limit, "tcp_keepalive_time": c.keepalive_time_s,
        "tcp_keepalive_intvl": c.keepalive_intvl_s, "tcp_keepalive_probes": c.keepalive_probes,
        "tcp_min_snd_mss": c.min_snd_mss, "tcp_rto_min_us": c.rto_min_ms * 1000,
        "tcp_delayed_ack_ms": c.delayed_ack_ms, "tcp_quickack_segments": c.quickack_segments, "somaxconn": c.somaxconn,
        "rmem_default": c.rmem_default, "rmem_max": c.rmem_max, "wmem_default": c.wmem_default,
        "wmem_max": c.wmem_max, "ip_local_port_range": (c.port_first, c.port_last),
        "tcp_ecn": c.ecn, "tcp_ecn_fallback": c.ecn_fallback, "tcp_ecn_option": c.ecn_option,
        "tcp_ecn_option_beacon": c.ecn_option_beacon,
        "tcp_dsack": c.dsack, "tcp_early_retrans": c.early_retrans, "tcp_recovery": c.recovery, "tcp_frto": c.frto,
        "tcp_reordering": c.reordering, "tcp_max_reordering": c.max_reordering,
        "tcp_mtu_probing": c.mtu_probing, "tcp_base_mss": c.base_mss, "tcp_retries1": c.retries1,
        "tcp_moderate_rcvbuf": c.moderate_rcvbuf, "tcp_notsent_lowat": c.notsent_lowat or 0xffffffff,
        "tcp_rmem": (BUFFER_MIN, c.rmem_default, c.rmem_max), "tcp_wmem": (BUFFER_MIN, c.wmem_default, c.wmem_max),
        "tcp_available_congestion_control": " ".join(congestion_names()),
        "tcp_min_tso_segs": c.min_tso_segs, "tcp_cubic_hystart": c.cubic_hystart, "tcp_pacing_ss_ratio": c.pacing_ss_ratio,
        "tcp_pacing_ca_ratio": c.pacing_ca_ratio, "default_qdisc": "fq" if c.pacing else "pfifo_fast",
        "tcp_congestion_control": stack.tcp.congestion.name.decode(),
    }[name.rpartition(".")[2]]
