package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Message is what came from a broker.
type Message struct {
	ID   string // who sends it again sends it under the same id
	Body []byte
	From string // where it lay, for people
}

// Command is the body of a message.
type Command struct {
	Do       string  `json:"do"` // create, pay, ship, cancel
	Order    string  `json:"order"`
	Amount   int64   `json:"amount,omitempty"` // minor units, such as cents
	Currency string  `json:"currency,omitempty"`
	Account  *string `json:"account,omitempty"`
	Reason   *string `json:"reason,omitempty"`
	SKU      string  `json:"sku,omitempty"`
	Count    int     `json:"count,omitempty"`
}

// maxID is how long a key may be.
const maxID = 255

// NewMessage makes a message whose id can be claimed. What has none, or an
// impossible one, gets one from its body.
func NewMessage(id string, body []byte, from string) Message {
	m := Message{ID: id, Body: body, From: from}
	if id == "" || len(id) > maxID || !utf8.ValidString(id) || strings.ContainsRune(id, 0) {
		m.ID = "no id: " + m.Digest()
	}
	return m
}

// Digest stands for the message as a whole.
func (m Message) Digest() string {
	sum := sha256.Sum256(append([]byte(m.ID+"\x00"), m.Body...))
	return hex.EncodeToString(sum[:])
}

// Command reads the body.
func (m Message) Command() (Command, error) {
	var c Command
	if strings.HasPrefix(m.ID, "no id: ") {
		return c, refusal{"the message has no id"}
	}
	if err := json.Unmarshal(m.Body, &c); err != nil {
		return c, refusal{fmt.Sprintf("the body cannot be read: %v", err)}
	}
	return c, nil
}
