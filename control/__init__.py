"""Control arm: diffusion policies in MuJoCo."""
