"""The way out that needs no privilege: TCP and UDP of stacks end here and go on over the kernel's sockets."""
