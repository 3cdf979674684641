"""Shift the wall clock of a process by FAULTS_SKEW_S; Python imports this module at start if it is on the path."""

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(os.environ["FAULTS_SKEW_S"]))).start()
