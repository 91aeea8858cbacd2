"""What holds for all tests: none of them fails because the machine is slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("seaway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seaway")
