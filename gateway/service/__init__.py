"""What the gateway does, said as orders: register, submit, plan, deliver, report."""
