"""Request and response models, and the OpenAPI document made from them."""
