"""What a person runs beside a policy: cost, latency, start-up, other engines on it, its structure and pictures."""
