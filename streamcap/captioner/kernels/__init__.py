"""CPU kernels: built from C, packed weights, int8 and float32."""
