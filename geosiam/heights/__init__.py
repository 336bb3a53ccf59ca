"""Heights of two dates: surface models brought onto each other, their difference, and volumes inside outlines."""
