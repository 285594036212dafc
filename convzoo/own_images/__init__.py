"""From a folder of images to a recipe: what `convzoo finetune` works with."""
