"""The matrix that DDP's hooks and ours are given, with nothing imported beside it."""

SHAPE, ROUNDS, RANK = (256, 128), 12, 4
DENSE = 2  # rounds before PowerSGD's first of low rank
