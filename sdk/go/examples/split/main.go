// Makes a message of each line of a new order, in a group for each order; drops the rows.
package main

import "PLUGIN_NAME/rowmill"

var orderLine = rowmill.NewRecipe(`{
	"for_each": "lines",
	"body": {
		"order": "{id}",
		"line": "{item_number()}",
		"sku": "{item()->'$.sku'}",
		"quantity": "{item()->'$.quantity'}"
	},
	"group": "order-{id}"
}`)

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("id", "lines")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: func(r *rowmill.Row) {
			if r.Operation == rowmill.Insert {
				r.Write(orderLine)
			}
		},
	})
}

func main() {}
