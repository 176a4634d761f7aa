"""A folder that ``netstack run`` puts on PYTHONPATH, so that every Python below it begins with
`sitecustomize`."""
