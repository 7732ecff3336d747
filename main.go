// Command slipway takes source from git, builds images, runs them and hosts
// them.
package main

func main() {}
