"""Privacy audit of a fleet: what each observer can learn, and findings with remedies."""
