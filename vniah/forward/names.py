"""Names of attention kernels, for those who list them without loading torch."""

ANYWHERE = ("auto", "plain")
# On CUDA in the order in which `vniah.forward.kernels.try_installed` tries them.
NAMES_BY_DEVICE = {
    "cpu": ("flash-cpu",),
    "cuda": ("flash-3", "flash-2", "varlen", "flash", "efficient", "cudnn"),
}
ATTENTION_NAMES = (*ANYWHERE, *(name for names in NAMES_BY_DEVICE.values() for name in names))
