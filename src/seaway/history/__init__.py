"""What became of events, told from what outbox, streams, inbox and queues hold."""
