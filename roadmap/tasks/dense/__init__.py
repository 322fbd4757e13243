"""What detection and segmentation share: a backbone of four maps, and costs."""
