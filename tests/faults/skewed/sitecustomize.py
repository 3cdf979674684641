"""Found by Python itself in a process that has this directory on its path: the wall clock is off by FAULTS_SKEW_S."""

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(os.environ["FAULTS_SKEW_S"]))).start()
