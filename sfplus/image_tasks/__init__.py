"""Classification and generation of images: CIFAR, MNIST, ImageNet and MHE-GAN."""
