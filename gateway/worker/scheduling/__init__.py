"""The parts of the send scheduler: fair queue, host gates and wake-ups. They do no I/O."""
