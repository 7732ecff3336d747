// Command probe is what the benchmarks run in containers.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "true":
	case "now": // when did this program begin, microseconds since 1970
		fmt.Println(time.Now().UnixMicro())
	case "lines": // lines N: N lines of 100 bytes; one in 1000 has a secret in it
		n, _ := strconv.Atoi(os.Args[2])
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		const text = " the quick brown fox jumps over the lazy dog and goes on to run through the woods of the north"
		for i := range n {
			line := fmt.Sprintf("%09d%s", i, text)
			if i%1000 == 999 {
				line = fmt.Sprintf("%09d %s%s", i, os.Getenv("SECRET_"+strconv.Itoa(i/1000%20)), text)
			}
			_, _ = w.WriteString(line[:99] + "\n")
		}
		_ = w.Flush()
	case "sleep":
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		select {
		case <-end:
		case <-time.After(time.Hour):
		}
	}
}
