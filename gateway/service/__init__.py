"""The operations of the gateway: register devices, submit, plan and deliver notifications, report results."""
