"""``seaway.yaml``, flags and environment, as validated settings.

Owns: where settings come from and which source wins (flags, environment, file, the nats CLI's
context, default). Must not know who uses them. Guarantees: what loads is coherent; what does not
is one ``ConfigError`` with the file's line and the way out. The environment is read here alone.
"""

from seaway.config.completing import Lacking, completed, lacking, written
from seaway.config.loading import (
    DEFAULT_FILE,
    DEVELOPMENT_FILE,
    load_settings,
    settings_from_mapping,
)
from seaway.config.models import (
    OWN_API,
    REDRIVE_WINDOW,
    RESTORE_FOR,
    AlertSettings,
    ConsumerSettings,
    NatsSettings,
    OutboxSettings,
    ProfileSettings,
    Settings,
    StreamSettings,
)
from seaway.config.root_options import application_settings, root_options
from seaway.config.values import (
    UNLIMITED,
    WEB_SCHEMES,
    Rate,
    ServerUrl,
    format_duration,
    format_size,
    from_nanoseconds,
    parse_duration,
    parse_size,
    redact_url,
    to_nanoseconds,
)

__all__ = [
    "DEFAULT_FILE",
    "DEVELOPMENT_FILE",
    "OWN_API",
    "REDRIVE_WINDOW",
    "RESTORE_FOR",
    "UNLIMITED",
    "WEB_SCHEMES",
    "AlertSettings",
    "ConsumerSettings",
    "Lacking",
    "NatsSettings",
    "OutboxSettings",
    "ProfileSettings",
    "Rate",
    "ServerUrl",
    "Settings",
    "StreamSettings",
    "application_settings",
    "completed",
    "format_duration",
    "format_size",
    "from_nanoseconds",
    "lacking",
    "load_settings",
    "parse_duration",
    "parse_size",
    "redact_url",
    "root_options",
    "settings_from_mapping",
    "to_nanoseconds",
    "written",
]
