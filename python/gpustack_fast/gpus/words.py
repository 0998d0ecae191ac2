"""What an error of NVML means to a person, and what to do next. Codes are those of `nvml.h`."""

from __future__ import annotations

__all__ = ["COMMAND_RESET", "hung", "no_gpus", "of_driver", "of_gpu", "of_recovery"]

COMMAND_RESET = (
    "Reset it with `nvidia-smi --gpu-reset -i UUID` when nothing runs on it (if that says that it "
    "is in use, stop this server first), or restart the machine"
)

_OF_DRIVER = {
    4: "This user may not talk to the NVIDIA driver. Run the command or the server as a user who "
    "may read and write /dev/nvidiactl and /dev/nvidia0, or add the user to the group that may.",
    9: "The NVIDIA driver is installed, but not loaded. Load it with `modprobe nvidia`, and look "
    "into `dmesg` when that fails; in a container, give it the GPUs (`--gpus all`).",
    11: "The NVIDIA driver gets no interrupts from a GPU. Restart the machine; if that does not "
    "help, look into `dmesg` and the settings of the BIOS.",
    12: "There is no NVIDIA driver here: its library libnvidia-ml.so.1 cannot be loaded. On a "
    "machine with NVIDIA GPUs, install the driver; in a container, give it the GPUs "
    "(`--gpus all`). Without GPUs nothing is amiss.",
    13: "The NVIDIA driver is too old to be asked. Update it.",
    17: "The system does not let the NVIDIA driver be asked. Look into `dmesg`, and at what the "
    "container or the service manager forbids.",
    18: "The NVIDIA driver was updated, and the old one is still loaded. Restart the machine, or "
    "unload and load the modules `nvidia*`; then start the server anew.",
}
_OF_GPU = {
    4: "This user may not use it. Give the user, or the container, access to its /dev/nvidia*.",
    8: "Its power cable is not connected, or not well. Connect it, and start the machine again.",
    11: "The driver gets no interrupts from it. Restart the machine, and look into `dmesg`.",
    15: "It has fallen off the bus, or does not respond any more. Restart the machine; if it "
    "happens again, have the GPU and its power and slot checked.",
    16: f"It has to be reset before it can be used again. {COMMAND_RESET}.",
    999: "The driver reports an unknown error on it. Look into `dmesg` for lines with `Xid`, and "
    "restart the machine if it stays.",
}
_OF_RECOVERY = {
    1: f"The driver asks for its reset. {COMMAND_RESET}.",
    2: "The driver asks for a restart of the machine on its account. Restart it.",
    4: "The driver asks for its reset, and no other GPU may use its memory until then. "
    f"{COMMAND_RESET}.",
    6: "The driver asks for a reset of its PCIe bus. Restart the machine.",
    7: "The driver asks for a restart of the machine on its account. Restart it.",
}
"""By the driver's recovery action; the others (none, drain P2P, IMEX) leave it usable."""


def of_driver(code: int, text: str) -> str:
    """Why no GPU can be read. `text`: NVML's own words."""
    return _OF_DRIVER.get(
        code,
        f"The NVIDIA driver cannot be asked: {text} (NVML's error {code}). Look into `dmesg`, and "
        "see whether `nvidia-smi` works.",
    )


def of_gpu(code: int, text: str) -> str:
    """Why nothing may be started on a GPU."""
    return _OF_GPU.get(
        code,
        f"The driver cannot be asked about it: {text} (NVML's error {code}). Look into `dmesg`, "
        "and see what `nvidia-smi` says of it.",
    )


def of_recovery(action: int) -> str:
    """What the driver wants done before a GPU is used again; empty: nothing."""
    return _OF_RECOVERY.get(action, "")


def no_gpus() -> str:
    """There is a driver, and nothing for it to drive."""
    return (
        "The NVIDIA driver finds no GPU. See whether `lspci` shows one, and in a container whether "
        "it was given any (`--gpus all`)."
    )


def hung(seconds: float, asked: str) -> str:
    """The driver has not answered for so long. `asked`: what is waited for, a noun."""
    return (
        f"The NVIDIA driver has not answered for {seconds:.0f} s ({asked}). GPUs are shown again "
        "when it does; if it never does, look into `dmesg` for lines with `Xid` or `NVRM`, and "
        "restart the machine."
    )
