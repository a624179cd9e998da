"""Does a policy act on this device as it did where it was made, and does a robot see what training saw?"""
