"""Request and response models, and the OpenAPI document that is generated from them."""
