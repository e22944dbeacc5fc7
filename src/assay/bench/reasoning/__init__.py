"""The ten reasoning benchmarks of Skywork R1V2, asked through kept libraries (paper B, section 5.1)."""
