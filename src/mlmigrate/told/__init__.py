"""What stores without a place for it are told as JSON: experiments, registered models,
dataset inputs.

W&B and Neptune know runs only. What is read back is untrusted: whatever is not as it
was written is left out.
"""
