"""Image classification and generation: data, networks, tasks, stages and scores of CIFAR, MNIST and MHE-GAN."""
