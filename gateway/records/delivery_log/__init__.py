"""The delivery log: writing results, reading them back, counting them, and the inbox made from them."""
