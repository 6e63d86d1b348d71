"""Backbones by name: `resnet50("imagenet")`, or `build("resnet50", "imagenet")`."""
