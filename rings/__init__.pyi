from rings.channel import Channel as Channel
from rings.channel import ChannelLayout as ChannelLayout
from rings.channel import channel_pair as channel_pair
from rings.endpoint import Consumer as Consumer
from rings.endpoint import Producer as Producer
from rings.ends import EndState as EndState
from rings.ends import RingPair as RingPair
from rings.ends import attach as attach
from rings.ends import receive_end as receive_end
from rings.ends import ring as ring
from rings.ends import send_end as send_end
from rings.errors import RegionMismatch as RegionMismatch
from rings.errors import RingBusy as RingBusy
from rings.errors import RingClosed as RingClosed
from rings.errors import RingDamaged as RingDamaged
from rings.errors import RingEmpty as RingEmpty
from rings.errors import RingError as RingError
from rings.errors import RingForked as RingForked
from rings.errors import RingFull as RingFull
from rings.errors import RingPoisoned as RingPoisoned
from rings.errors import RingSizeError as RingSizeError
from rings.errors import RingTruncated as RingTruncated
from rings.shared_memory import sweep as sweep

def get_include() -> str: ...
