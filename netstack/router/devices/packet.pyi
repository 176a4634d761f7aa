from netstack.router.devices.device import Device

class PacketDevice(Device):
    def __init__(self, name: str, mac: bytes, *, offload: bool = True) -> None: ...
