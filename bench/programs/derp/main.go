// Tailscale's DERP relay and two clients of it, as processes of their own: `derp server` prints its address and serves until
// standard input closes; `derp clients ADDRESS SIZE` sends packets of SIZE bytes from one client to the other, and prints the
// number that has arrived each time a line comes in.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

func main() {
	if os.Args[1] == "server" {
		serve()
		return
	}
	size, err := strconv.Atoi(os.Args[3])
	check(err)
	send(os.Args[2], size)
}

func serve() {
	relay := derpserver.New(key.NewNode(), logger.Discard)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, derpserver.Handler(relay))
	fmt.Println(listener.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func send(address string, size int) {
	sender, _ := connect(address)
	receiver, to := connect(address)
	var arrived atomic.Int64
	go func() {
		packet := make([]byte, size)
		for {
			check(sender.Send(to, packet))
		}
	}()
	go func() {
		for {
			message, err := receiver.Recv()
			check(err)
			if _, ok := message.(derp.ReceivedPacket); ok {
				arrived.Add(1)
			}
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(arrived.Load())
	}
}

func connect(address string) (*derphttp.Client, key.NodePublic) {
	private := key.NewNode()
	client, err := derphttp.NewClient(private, "http://"+address+"/derp", logger.Discard, netmon.NewStatic())
	check(err)
	check(client.Connect(context.Background()))
	return client, private.Public()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
