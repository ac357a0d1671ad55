mod section;
mod sequence;
