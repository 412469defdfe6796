"""`ganctl evaluate`, as a person or a program calls it: what it says, and how it fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Ganctl
from training.data import load_split
from training.config import DataSettings
