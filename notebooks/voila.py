"""How the explorer is served as a page: Voila's own configuration, read by ``make explore``."""

c = get_config()  # noqa: F821 - Voila's

c.Voila.tornado_settings = {
    # An image that is uploaded comes in one message; the server's own limit is 10 MB.
    "websocket_max_message_size": 64 * 2**20,
    # The page asks no other host for anything, and can send none an image: the browser sees to it.
    "headers": {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"},
}
# Kernels of pages that were closed are ended.
c.MappingKernelManager.cull_interval = 60
c.MappingKernelManager.cull_idle_timeout = 900
