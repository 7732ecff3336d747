// Command probe is what the benchmarks run in containers.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	switch os.Args[1] {
	case "true":
	case "now": // when did this program begin, microseconds since 1970
		fmt.Println(time.Now().UnixMicro())
	case "lines": // lines N: N lines of 100 bytes
		n, _ := strconv.Atoi(os.Args[2])
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		for i := range n {
			fmt.Fprintf(w, "%09d the quick brown fox jumps over the lazy dog and goes on to run through the woods of the n\n", i)
		}
		_ = w.Flush()
	case "sleep":
		time.Sleep(time.Hour)
	}
}
