"""Real servers, started and stopped by the process that needs them."""
