"""A server under load and faults for a long time, watched for what it does not give back."""
