"""The parts of the send scheduler: fair queue, host gates and wake-ups. None of them does I/O."""
