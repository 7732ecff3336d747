package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// dial tries every address and says which answer.
func dial(addresses []string) {
	var wg sync.WaitGroup
	for _, a := range addresses {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", a, 3*time.Second)
			if err != nil {
				fmt.Printf("shut %s: %v\n", a, err)
				return
			}
			_ = c.Close()
			fmt.Println("REACHED", a)
		})
	}
	wg.Wait()
	fmt.Println("tried", len(addresses))
}

// tell says its whole environment, and what is in a file, in several ways, and
// stays for a while.
func tell(files []string) error {
	for _, e := range os.Environ() {
		fmt.Println(e)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		fmt.Printf("the file has %d bytes\n%s\n", len(b), b)
		os.Stderr.Write(append([]byte("in the middle "), append(b, " of a line\n"...)...))
		for _, c := range b { // as a slow writer would
			os.Stdout.Write([]byte{c})
		}
		fmt.Println()
	}
	time.Sleep(300 * time.Millisecond)
	return nil
}

// web answers on port 8080, after saying where it is.
func web() error {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	var l []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			l = append(l, ip.IP.String())
		}
	}
	fmt.Println("addresses", strings.Join(l, " "))
	s := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"version":"tool"}`)
	})}
	return s.ListenAndServe()
}
