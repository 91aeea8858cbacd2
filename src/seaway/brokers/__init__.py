"""NATS JetStream (``contracts.Broker``). What stands for it in tests is in ``testing``."""
